// Bundle `src/` into `server/playground/`; `--check` compares instead and fails on a difference.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, '..', 'server', 'playground');
const read = (...path) => readFileSync(join(here, ...path));
const BUNDLED = ['preact', 'uplot'];

function sha256(parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

/** SHA-256 over everything that the bundle is made of; the tests compute it without Node. */
function sourcesHash() {
  const sources = readdirSync(join(here, 'src')).sort().map((name) => ['src', name]);
  return sha256([...sources, ['build.js'], ['package-lock.json']].map((path) => read(...path)));
}

function notice() {
  const parts = BUNDLED.map((name) => {
    const { version } = JSON.parse(read('node_modules', name, 'package.json'));
    return `${name} ${version}\n\n${read('node_modules', name, 'LICENSE').toString().trim()}\n`;
  });
  return `The playground contains these packages.\n\n${parts.join(`\n${'-'.repeat(70)}\n\n`)}`;
}

async function files() {
  const { outputFiles } = await build({
    absWorkingDir: here,
    entryPoints: { app: 'src/main.jsx' },
    outdir: 'out',
    write: false,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    charset: 'utf8',
    jsx: 'automatic',
    jsxImportSource: 'preact',
    legalComments: 'none',
  });
  const bundle = outputFiles.map((file) => [file.path.split('/').pop(), Buffer.from(file.contents)]);
  const made = Object.fromEntries(bundle);
  const hashes = `sources sha256 ${sourcesHash()}; bundle sha256 ${sha256([made['app.js'], made['app.css']])}`;
  const banner = Buffer.from(`/* ${hashes}; licenses: NOTICE.txt */\n`);
  made['app.js'] = Buffer.concat([banner, made['app.js']]);
  const copied = ['index.html', 'icon.svg'].map((name) => [name, read('src', name)]);
  return { ...made, ...Object.fromEntries(copied), 'NOTICE.txt': Buffer.from(notice()) };
}

const made = await files();
if (process.argv.includes('--check')) {
  const stale = Object.keys(made).filter((name) => !readFileSync(join(out, name)).equals(made[name]));
  if (stale.length) {
    console.error(`stale: ${stale.join(', ')}: run npm run build`);
    process.exit(1);
  }
} else {
  mkdirSync(out, { recursive: true });
  for (const [name, content] of Object.entries(made)) writeFileSync(join(out, name), content);
}
for (const [name, content] of Object.entries(made)) console.log(name, content.length);
