// Named checks of a client: each prints one line of JSON, {"check", "error"}; no error is null.
// node SCRIPT NODE_MODULES URL MODEL

const assert = require("node:assert/strict");
const { createRequire } = require("node:module");

const [folder, url, model] = process.argv.slice(2);
// Packages lie outside of this repository.
const load = createRequire(`${folder}/`);

async function run(checks) {
  for (const [check, body] of Object.entries(checks)) {
    let error = null;
    try {
      await body();
    } catch (thrown) {
      error = String(thrown?.message ?? thrown).slice(0, 500);
    }
    console.log(JSON.stringify({ check, error }));
  }
}

const SCHEMA = {
  type: "object",
  properties: { big: { type: "boolean" }, kind: { enum: ["cat", "dog"] } },
  required: ["big", "kind"],
  additionalProperties: false,
};

function checkAnimal(animal) {
  assert.equal(typeof animal.big, "boolean");
  assert.ok(["cat", "dog"].includes(animal.kind));
}

module.exports = { SCHEMA, assert, checkAnimal, load, model, run, url };
