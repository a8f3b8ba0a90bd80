// Builds the playground's page into the Python package: `node build.mjs [FOLDER]`.
//
// The same sources and packages give the same bytes, so that a test can tell whether what is committed is built
// from what is here.

import { copyFile, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, '../../src/lowtide/playground/page');
const find = createRequire(import.meta.url).resolve;

// The SDK brings four builds of SQLite and five file systems; the phones use one of each, in the worker and never
// in the page, and no WebSockets.
const UNUSED = /^@journeyapps\/|\/((mc-)?wa-sqlite-async|mc-wa-sqlite|AccessHandlePoolVFS|IDBBatchAtomicVFS|MemoryVFS|OPFSWriteAheadVFS|websockets)\b/;
const leaveOut = {
  name: 'leave-out',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: UNUSED }, ({ path, kind }) =>
      kind === 'dynamic-import' ? { path, namespace: 'unused' } : undefined
    );
    onLoad({ filter: /./, namespace: 'unused' }, ({ path }) => ({
      contents: `throw new Error(${JSON.stringify(`${path.split('/').pop()} is not in this build`)})`
    }));
  }
};

const { outputFiles, metafile } = await build({
  absWorkingDir: here,
  entryPoints: ['src/shell.tsx', 'src/phone.tsx', 'src/worker.ts', 'src/shell.css', 'src/phone.css'],
  outdir: out,
  bundle: true,
  write: false,
  metafile: true,
  minify: true,
  format: 'esm',
  target: ['es2022'],
  alias: { '@lowtide/client': join(here, '../typescript/src/index.ts') },
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  logLevel: 'warning',
  plugins: [leaveOut],
  external: ['*.wasm']
});

const files = new Map();
for (const { path, contents } of outputFiles) files.set(path.slice(out.length + 1), contents);

// The one WebAssembly that the worker asks for, by a name that does not change.
const worker = new TextDecoder().decode(files.get('worker.js'));
const asked = [...worker.matchAll(/["'`](assets\/[\w./-]+\.wasm)["'`]/g)].map((match) => match[1]);
if (new Set(asked).size !== 1) throw new Error(`the worker asks for ${asked.join(', ') || 'no WebAssembly'}`);
files.set('worker.js', new TextEncoder().encode(worker.replaceAll(asked[0], 'wa-sqlite.wasm')));
const wasm = join(dirname(find('@powersync/web/bundled_worker')), asked[0]);
files.set('wa-sqlite.wasm', await readFile(wasm));
files.set('NOTICE.txt', new TextEncoder().encode(await notice(metafile)));

await mkdir(out, { recursive: true });
for (const name of await readdir(out)) if (/\.(gz|html)$/.test(name)) await rm(join(out, name));
let total = 0;
for (const [name, contents] of [...files].sort()) {
  const packed = gzipSync(contents, { level: 9 });
  packed[9] = 255; // the operating system's number, which would differ
  total += packed.length;
  await writeFile(join(out, `${name}.gz`), packed);
  console.log(`${name.padEnd(18)} ${String(contents.length).padStart(9)} ${String(packed.length).padStart(9)} packed`);
}
for (const name of ['index.html', 'phone.html']) await copyFile(join(here, 'src', name), join(out, name));
console.log(`${'together'.padEnd(28)} ${String(total).padStart(9)}`);

/** The licences of the packages that went into the bundle. */
async function notice({ inputs }) {
  const names = new Set(['@journeyapps/wa-sqlite', '@powersync/shared-internals', 'comlink']);
  for (const path of Object.keys(inputs)) {
    const found = path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//);
    if (found) names.add(found[1]);
  }
  const parts = ['The playground contains these packages, unmodified, under their licences.\n'];
  for (const name of [...names].sort()) {
    const folder = join(here, '../../node_modules', name);
    const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
    const held = (await readdir(folder)).find((file) => /^licen[cs]e/i.test(file));
    const text = held ? await readFile(join(folder, held), 'utf8') : `Licensed under ${license}.`;
    parts.push(`${'='.repeat(78)}\n${name} ${version} (${license})\n${'='.repeat(78)}\n\n${text.trim()}\n`);
  }
  return parts.join('\n');
}
