/** The title, the two views, the model, and the buttons of the view. */

const VIEWS = { chat: 'Chat', decisions: 'Decisions' };

export function Header({ view, onView, models, model, onModel, children }) {
  return (
    <header>
      <h1>Entrostat playground</h1>
      <nav aria-label="Views">
        {Object.entries(VIEWS).map(([name, title]) => (
          <button key={name} type="button" aria-current={name === view ? 'page' : undefined} onClick={() => onView(name)}>
            {title}
          </button>
        ))}
      </nav>
      <label>
        Model <select value={model} onChange={(event) => onModel(event.currentTarget.value)}>
          {models.map((name) => <option key={name} value={name}>{name}</option>)}
        </select>
      </label>
      {children}
    </header>
  );
}
