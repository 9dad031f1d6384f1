// Bundles the chat template engine for internal/chat: the sources of the npm
// package @huggingface/jinja and internal/chat/jinja/prelude.js become
// internal/chat/jinja/jinja.bundle.js, one script without modules that goja
// runs. The result is embedded into the binary by go:embed and is not
// committed. Run by `make deps`, after npm has installed the packages.
import { readFileSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const library = join(root, "node_modules/@huggingface/jinja");
const folder = join(root, "internal/chat/jinja");
const wanted = "0.5.11";

const { version, license } = JSON.parse(readFileSync(join(library, "package.json"), "utf8"));
if (version !== wanted) {
  console.error(`@huggingface/jinja is ${version}, but internal/chat is written for ${wanted}: run npm ci`);
  process.exit(1);
}
const notice = readFileSync(join(library, "LICENSE"), "utf8").trim().replaceAll("*/", "* /");

const out = join(folder, "jinja.bundle.js");
await build({
  entryPoints: [join(folder, "prelude.js")],
  outfile: out + ".new",
  bundle: true,
  format: "iife",
  target: "es2017",
  // goja calls a helper for each class field when they are defined and not
  // assigned, which costs a third of the rendering time.
  tsconfigRaw: { compilerOptions: { useDefineForClassFields: false } },
  alias: { "jinja-src": join(library, "src") },
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: "inline",
  banner: { js: `/*! @huggingface/jinja ${version} (${license})\n\n${notice}\n*/` },
  logLevel: "warning",
});
// In one step, so that a Go build that runs meanwhile never sees half a file.
renameSync(out + ".new", out);
