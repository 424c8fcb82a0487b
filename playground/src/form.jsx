/** A form generated from the schema: one component for each kind of field. */

import { createContext } from 'preact';
import { useContext, useEffect } from 'preact/hooks';
import { initial, initialVariant, ownerOf, variantOf, withKey } from './schema.js';

/** `{error: {path, message} | null, artifacts: [...]}` */
export const FormContext = createContext({ error: null, artifacts: [] });

/** The error at the field that the server names, if the form has it; `prefix` starts its path. */
export function located({ message, param }, prefix = '') {
  const paths = [...document.querySelectorAll('[data-path]')].map((one) => one.dataset.path);
  return { message, path: ownerOf(prefix + param, paths) };
}

/** Show the field of an error and put the cursor there. */
export function useFocus(error) {
  useEffect(() => {
    if (!error?.path) return;
    const field = document.querySelector(`[data-path="${CSS.escape(error.path)}"]`);
    field.closest('details')?.setAttribute('open', '');
    field.querySelector('input, select, textarea')?.focus();
  }, [error]);
}

const idOf = (path) => `field-${path.replaceAll(/[^\w]/g, '-')}`;

/** All fields of an object; `value` has a key for each field that is set. */
export function Fields({ fields, path, value, onChange }) {
  return fields.map((field) => (
    <Field
      key={field.name}
      field={field}
      path={path ? `${path}.${field.name}` : field.name}
      value={value?.[field.name]}
      onChange={(next) => onChange(withKey(value, field.name, next))}
    />
  ));
}

const GROUPS = { object: ObjectBody, union: UnionBody, list: ListBody, tuple: TupleBody };

export function Field({ field, path, value, onChange, label = field.name }) {
  const Body = GROUPS[field.kind];
  if (!Body) return <Scalar {...{ field, path, value, onChange, label }} />;
  const isOn = value !== undefined || field.required;
  const toggle = (event) => onChange(event.currentTarget.checked ? initial(field) : undefined);
  return (
    <fieldset data-path={path} aria-describedby={`${idOf(path)}-note`}>
      <legend>
        {field.required ? label : (
          <label>
            <input id={idOf(path)} type="checkbox" checked={isOn} onChange={toggle} /> {label}
          </label>
        )}
      </legend>
      <Note path={path} field={field} />
      {isOn && <Body {...{ field, path, value, onChange }} />}
    </fieldset>
  );
}

function Note({ path, field }) {
  const { error } = useContext(FormContext);
  const limits = field.limits ? ` (${field.limits})` : '';
  return (
    <div id={`${idOf(path)}-note`} class="note">
      <Code text={`${field.description}${limits}`} />
      {error?.path === path && <p class="error">{error.message}</p>}
    </div>
  );
}

/** Text in which backticks mark code. */
function Code({ text }) {
  return text.split('`').map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part));
}

function ObjectBody({ field, path, value, onChange }) {
  return <Fields fields={field.fields} path={path} value={value} onChange={onChange} />;
}

function UnionBody({ field, path, value, onChange }) {
  const variant = variantOf(field, value);
  const choice = {
    kind: 'choice',
    required: true,
    description: variant.description,
    options: field.variants.map((one) => one.value),
  };
  const choose = (next) =>
    onChange(initialVariant(field, field.variants.find((one) => one.value === next)));
  return (
    <>
      <Scalar field={choice} path={`${path}.${field.tag}`} value={variant.value} onChange={choose} label={field.tag} />
      <Fields key={variant.value} fields={variant.fields} path={path} value={value} onChange={onChange} />
    </>
  );
}

function ListBody({ field, path, value = [], onChange }) {
  const Item = GROUPS[field.item.kind];
  const set = (i, next) => onChange(value.map((one, j) => (i === j ? next : one)));
  const remove = (i) => onChange(value.length > 1 ? value.filter((_, j) => i !== j) : undefined);
  return (
    <>
      {value.map((one, i) => (
        <div class="item" key={i}>
          <Item field={field.item} path={`${path}.${i}`} value={one} onChange={(next) => set(i, next)} />
          <button type="button" onClick={() => remove(i)}>Remove {path.split('.').pop()} {i + 1}</button>
        </div>
      ))}
      {value.length < field.max && (
        <button type="button" onClick={() => onChange([...value, initial(field.item)])}>Add another</button>
      )}
    </>
  );
}

function TupleBody({ field, path, value, onChange }) {
  const set = (i, next) => onChange(field.items.map((_, j) => (i === j ? next : value?.[j]) ?? null));
  return field.items.map((item, i) => (
    <Scalar
      key={i}
      field={item}
      path={`${path}.${i}`}
      value={value?.[i] ?? undefined}
      onChange={(next) => set(i, next)}
      label={`value ${i + 1}`}
    />
  ));
}

/** A field with one input. Nothing is set while the input is empty. */
function Scalar({ field, path, value, onChange, label }) {
  const { error, artifacts } = useContext(FormContext);
  const ids = artifacts.filter((one) => one.usable && one.kind === field.artifact).map((one) => one.id);
  const options = field.options ?? (ids.length ? ids : null);
  const Input = options ? Select : field.kind === 'json' ? Json : Text;
  const standard = field.default ?? field.slider?.[0];
  return (
    <div class="field" data-path={path}>
      <label for={idOf(path)}>{label}</label>
      <Input
        {...{ field, options, value, onChange }}
        attributes={{
          id: idOf(path),
          'aria-describedby': `${idOf(path)}-note`,
          'aria-invalid': error?.path === path || undefined,
          'aria-required': field.required || undefined,
        }}
      />
      {field.slider && (
        <input
          type="range"
          aria-label={`${label}, slider`}
          min={field.slider[0]}
          max={field.slider[1]}
          step={(field.slider[1] - field.slider[0]) / 100}
          value={value ?? standard}
          onInput={(event) => onChange(Number(event.currentTarget.value))}
        />
      )}
      <Note path={path} field={field} />
    </div>
  );
}

function Select({ field, options, value, onChange, attributes }) {
  const chosen = options.findIndex((one) => one === value);
  const standard = field.default === null ? 'default' : `default: ${JSON.stringify(field.default)}`;
  const choose = (event) => onChange(options[event.currentTarget.value]);
  return (
    <select {...attributes} value={chosen} onChange={choose}>
      {(!field.required || value === undefined) && <option value={-1}>{field.required ? 'choose' : standard}</option>}
      {options.map((one, i) => <option key={i} value={i}>{String(one)}</option>)}
    </select>
  );
}

function Text({ field, value, onChange, attributes }) {
  const isNumber = field.kind === 'number';
  const shown = Array.isArray(value) ? value.join(', ') : String(value ?? '');
  const read = (text) => {
    if (text.trim() === '') return undefined;
    if (field.kind === 'values') return text.split(',').map((part) => parsed(part.trim(), field.item.kind));
    if (field.kind === 'switch' && ['true', 'false'].includes(text.trim())) return text.trim() === 'true';
    return parsed(text, field.kind);
  };
  return (
    <input
      {...attributes}
      type={isNumber ? 'number' : 'text'}
      step={field.integer ? 1 : 'any'}
      autocomplete="off"
      placeholder={field.default === null ? '' : String(field.default)}
      value={shown}
      onChange={(event) => onChange(read(event.currentTarget.value))}
    />
  );
}

/** A number if the text is one; otherwise the text, which the server refuses with a reason. */
function parsed(text, kind) {
  return (kind === 'number' || kind === 'switch') && text !== '' && !Number.isNaN(Number(text)) ? Number(text) : text;
}

/** For a schema that this form does not know: the value as JSON. */
function Json({ value, onChange, attributes }) {
  const read = (event) => {
    const text = event.currentTarget.value.trim();
    try {
      onChange(text === '' ? undefined : JSON.parse(text));
      event.currentTarget.setCustomValidity('');
    } catch {
      event.currentTarget.setCustomValidity('not JSON');
    }
    event.currentTarget.reportValidity();
  };
  const shown = value === undefined ? '' : JSON.stringify(value);
  return <textarea {...attributes} rows="2" value={shown} onChange={read} placeholder="JSON" />;
}
