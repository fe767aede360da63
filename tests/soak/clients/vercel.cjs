// The AI SDK with both of its providers; needs `npm install ai @ai-sdk/openai
// @ai-sdk/openai-compatible zod`.

const { SCHEMA, assert, checkAnimal, load, model, run, url } = require("./checks.cjs");
const {
  APICallError, Output, generateObject, generateText, jsonSchema, stepCountIs, streamObject,
  streamText, tool,
} = load("ai");
const { createOpenAI } = load("@ai-sdk/openai");
const { createOpenAICompatible } = load("@ai-sdk/openai-compatible");

const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "any" });
const compatible = createOpenAICompatible({
  name: "jaxgpt", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true,
});
const messages = [
  { role: "system", content: "Be short." },
  { role: "user", content: [{ type: "text", text: "What does len do?" }] },
];
const schema = jsonSchema(SCHEMA);
const KINDS = {
  "openai (responses)": openai(model),
  "openai.chat": openai.chat(model),
  "openai.completion": openai.completion(model),
  compatible: compatible(model),
  "compatible.completionModel": compatible.completionModel(model),
};

const checks = {};
for (const [name, chosen] of Object.entries(KINDS)) {
  const asked = {
    model: chosen, messages, maxOutputTokens: 12, temperature: 0, maxRetries: 0,
  };
  checks[`${name}, text`] = async () => {
    const found = await generateText(asked);
    assert.equal(typeof found.text, "string");
    assert.ok(found.usage.inputTokens > 0, JSON.stringify(found.usage));
    assert.ok(["stop", "length"].includes(found.finishReason), found.finishReason);
  };
  checks[`${name}, streamed`] = async () => {
    const whole = await generateText(asked);
    const found = streamText({ ...asked, onError: ({ error }) => { throw error; } });
    let text = "";
    for await (const part of found.textStream) text += part;
    assert.equal(text, whole.text);
    assert.equal(await found.finishReason, whole.finishReason);
    assert.ok((await found.usage).inputTokens > 0, JSON.stringify(await found.usage));
  };
  checks[`${name}, an error`] = async () => {
    await assert.rejects(generateText({ ...asked, temperature: 3 }), (error) => {
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, 400);
      assert.match(error.message, /temperature/);
      return true;
    });
  };
  if (/completion/.test(name)) continue;
  checks[`${name}, a second turn`] = async () => {
    const { response } = await generateText(asked);
    const turn = { role: "user", content: "And print?" };
    const later = { ...asked, messages: [...messages, ...response.messages, turn] };
    // With the route of responses it would send the id of the first answer, which a server that
    // keeps nothing refuses.
    if (/responses/.test(name)) await assert.rejects(generateText(later), /with store false/);
    const providerOptions = { openai: { store: false } };
    const found = await generateText({ ...later, providerOptions });
    assert.equal(typeof found.text, "string");
  };
  checks[`${name}, an object`] = async () => {
    const found = await generateObject({ ...asked, maxOutputTokens: 60, schema });
    checkAnimal(found.object);
  };
  checks[`${name}, an object, streamed`] = async () => {
    const found = streamObject({ ...asked, maxOutputTokens: 60, schema });
    for await (const _ of found.partialObjectStream);
    checkAnimal(await found.object);
  };
  checks[`${name}, text with an output`] = async () => {
    const output = Output.object({ schema });
    const found = await generateText({ ...asked, maxOutputTokens: 60, output });
    checkAnimal(found.output);
  };
}
for (const [name, chosen] of Object.entries(KINDS)) {
  if (/completion|responses/.test(name)) continue;
  const toolChoice = { type: "tool", toolName: "keep" };
  const asked = { model: chosen, messages, temperature: 0, maxRetries: 0, toolChoice };
  const called = [];
  const execute = (animal) => { called.push(animal); return "done"; };
  const tools = { keep: tool({ description: "Keep it.", inputSchema: schema, execute }) };
  checks[`${name}, a call and its result`] = async () => {
    const found = await generateText({ ...asked, tools, stopWhen: stepCountIs(2) });
    assert.equal(found.steps[0].finishReason, "tool-calls");
    assert.equal(found.steps.length, 2);
    assert.ok(called.length > 0);
    called.forEach(checkAnimal);
  };
  checks[`${name}, a call streamed`] = async () => {
    const found = streamText({ ...asked, tools, onError: ({ error }) => { throw error; } });
    await found.consumeStream();
    const [call] = await found.toolCalls;
    checkAnimal(call.input);
  };
}
run(checks);
