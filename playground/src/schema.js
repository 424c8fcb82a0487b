/** From a JSON schema to the fields of a form. */

const ARTIFACT = /\bId of an? `([a-z-]+)` artifact/;

/** The properties of an object schema as fields. */
export function fieldsOf(root, schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, property]) => ({
    name,
    required: required.has(name),
    ...fieldOf(root, property),
  }));
}

/** One field: its kind, its limits, and the texts that explain it. */
export function fieldOf(root, property) {
  const { schema, optional } = resolve(root, property);
  const description = (property.description ?? schema.description ?? '').replaceAll('\n', ' ');
  const base = {
    optional,
    description,
    default: property.default ?? null,
    slider: property['x-slider'] ?? null,
    artifact: ARTIFACT.exec(description)?.[1] ?? null,
  };
  return { ...base, ...kindOf(root, schema) };
}

/** Follow references and drop null from unions. */
function resolve(root, schema) {
  if (schema.$ref) return resolve(root, root.$defs[schema.$ref.split('/').pop()]);
  const options = schema.anyOf?.filter((one) => one.type !== 'null');
  if (options?.length === 1 && schema.type === undefined) {
    return { schema: resolve(root, options[0]).schema, optional: true };
  }
  return { schema, optional: false };
}

function kindOf(root, schema) {
  if (schema.discriminator) return { kind: 'union', ...union(root, schema) };
  if (schema.oneOf?.[0].discriminator) return { kind: 'union', ...withoutTag(root, schema.oneOf) };
  if (schema.const !== undefined) return { kind: 'choice', options: [schema.const] };
  if (schema.enum) return { kind: 'choice', options: schema.enum };
  if (schema.type === undefined) return alternatives(root, schema.anyOf ?? []);
  switch (schema.type) {
    case 'boolean':
      return { kind: 'choice', options: [true, false] };
    case 'number':
    case 'integer':
      return { kind: 'number', integer: schema.type === 'integer', limits: limits(schema) };
    case 'string':
      return { kind: 'text', limits: schema.maxLength ? `up to ${schema.maxLength} characters` : '' };
    case 'array':
      return list(root, schema);
    case 'object':
      if (schema.properties) return { kind: 'object', fields: fieldsOf(root, schema) };
  }
  return { kind: 'json' };
}

/** A value of several types: its text or a list of objects if it may be one, or a switch that may also be a number. */
function alternatives(root, options) {
  const types = options.map((one) => resolve(root, one).schema.type);
  if (types.includes('string')) return { kind: 'text', limits: '' };
  const objects = types.includes('array') && list(root, options[types.indexOf('array')]);
  if (objects?.kind === 'list') return objects;
  const number = options.find((one) => one.type === 'number');
  if (number && types.includes('boolean')) return { kind: 'switch', limits: `true, false, or ${limits(number)}` };
  return { kind: 'json' };
}

function union(root, schema) {
  const tag = schema.discriminator.propertyName;
  const variants = Object.entries(schema.discriminator.mapping).map(([value, ref]) => {
    const variant = resolve(root, { $ref: ref }).schema;
    const fields = fieldsOf(root, variant).filter((field) => field.name !== tag);
    return { value, description: variant.description ?? '', fields };
  });
  return { tag, variants };
}

/** A union and further objects that lack its tag, such as one law or one for each phase. */
function withoutTag(root, [tagged, ...others]) {
  const { tag, variants } = union(root, tagged);
  const more = others.map((one) => {
    const { schema } = resolve(root, one);
    const fields = fieldsOf(root, schema);
    const value = fields.map((field) => field.name).join(', ');
    return { value, description: schema.description ?? '', fields, hasNoTag: true };
  });
  return { tag, variants: [...variants, ...more] };
}

function list(root, schema) {
  if (schema.prefixItems) {
    return { kind: 'tuple', items: schema.prefixItems.map((item) => fieldOf(root, item)) };
  }
  const item = fieldOf(root, schema.items ?? {});
  if (item.kind === 'object' || item.kind === 'union') {
    return { kind: 'list', item, min: schema.minItems ?? 1, max: schema.maxItems ?? Infinity };
  }
  if (item.kind === 'number' || item.kind === 'text') return { kind: 'values', item };
  return { kind: 'json' };
}

function limits(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  const parts = [];
  if (low !== undefined) parts.push(`${schema.minimum === undefined ? 'above' : 'from'} ${low}`);
  if (high !== undefined) parts.push(`${schema.maximum === undefined ? 'below' : 'to'} ${high}`);
  return parts.join(' ');
}

/** The value that a field starts with when somebody switches it on. */
export function initial(field) {
  if (field.kind === 'union') return initialVariant(field, field.variants[0]);
  if (field.kind === 'list') return Array.from({ length: field.min }, () => initial(field.item));
  if (field.kind === 'tuple') return field.items.map(() => null);
  if (field.kind !== 'object') return undefined;
  const lists = field.fields.filter((one) => one.required && one.kind === 'list');
  return Object.fromEntries(lists.map((one) => [one.name, initial(one)]));
}

/** The value that a variant of a union starts with. */
export function initialVariant(field, variant) {
  if (!variant.hasNoTag) return { [field.tag]: variant.value, ...initial({ kind: 'object', fields: variant.fields }) };
  const [first] = variant.fields;
  return { [first.name]: initial(first) };
}

/** The variant of a union that a value has. */
export function variantOf(field, value) {
  const { tag, variants } = field;
  const fits = (one) => (one.hasNoTag ? !(tag in value) : one.value === value[tag]);
  return (value && variants.find(fits)) ?? variants[0];
}

/** A copy of an object with one key set; the key is absent if the value is undefined. */
export function withKey(object, name, value) {
  const { [name]: _, ...rest } = object ?? {};
  return value === undefined ? rest : { ...rest, [name]: value };
}

/** The longest of `paths` that contains the server's `param`; null if none does. */
export function ownerOf(param, paths) {
  const owners = paths.filter((path) => param === path || param?.startsWith(`${path}.`));
  return owners.sort((a, b) => b.length - a.length)[0] ?? null;
}
