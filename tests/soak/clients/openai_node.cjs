// The official client for JavaScript; needs `npm install openai zod`.

const { SCHEMA, assert, checkAnimal, load, model, run, url } = require("./checks.cjs");
const OpenAI = load("openai");

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "What does len do?" }];
const asked = { model, messages, max_completion_tokens: 12, seed: 3 };
const form = { type: "json_schema", json_schema: { name: "animal", schema: SCHEMA, strict: true } };

run({
  async models() {
    const found = [];
    for await (const each of client.models.list()) found.push(each.id);
    assert.ok(found.includes(model));
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  async completion() {
    const answer = await client.completions.create({
      model, prompt: ["import os", "def"], max_tokens: 5, logprobs: 2, echo: true, seed: 1,
    });
    assert.equal(answer.choices.length, 2);
    assert.ok(answer.choices[0].text.startsWith("import os"));
    assert.ok(answer.choices[0].logprobs.token_logprobs.length > 5);
  },
  async "completion, streamed"() {
    const asked = { model, prompt: "import os", max_tokens: 8, seed: 1, ignore_eos: true };
    const whole = await client.completions.create(asked);
    let text = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true }))
      text += chunk.choices[0].text;
    assert.equal(text, whole.choices[0].text);
  },
  async chat() {
    const answer = await client.chat.completions.create(asked);
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.ok(answer.usage.prompt_tokens > 0);
  },
  async "chat, streamed with usage"() {
    const whole = await client.chat.completions.create(asked);
    const stream = await client.chat.completions.create({
      ...asked, stream: true, stream_options: { include_usage: true },
    });
    let text = "", usage, finish;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, whole.choices[0].finish_reason);
    assert.deepEqual(usage, whole.usage);
  },
  async "chat, the helper for streams"() {
    const stream = client.chat.completions.stream(asked);
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(text, final.choices[0].message.content);
  },
  async "chat, a client that leaves"() {
    const stream = await client.chat.completions.create({
      ...asked, max_completion_tokens: 500, stream: true,
    });
    for await (const _ of stream) break;
  },
  async "chat, parsed by a schema"() {
    const answer = await client.chat.completions.parse({
      model, messages, response_format: form, max_completion_tokens: 60,
    });
    checkAnimal(JSON.parse(answer.choices[0].message.content));
  },
  async "chat, parsed by zod"() {
    const { zodResponseFormat } = load("openai/helpers/zod");
    const { z } = load("zod");
    const animal = z.object({ big: z.boolean(), kind: z.enum(["cat", "dog"]) });
    const answer = await client.chat.completions.parse({
      model, messages, response_format: zodResponseFormat(animal, "animal"),
    });
    checkAnimal(answer.choices[0].message.parsed);
  },
  async "chat, a call and its result"() {
    const tools = [{ type: "function", function: { name: "keep", parameters: SCHEMA } }];
    const forced = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false };
    const { choices: [{ message, finish_reason }] } = await client.chat.completions.create(forced);
    assert.equal(finish_reason, "tool_calls");
    const results = message.tool_calls.map((call) => {
      checkAnimal(JSON.parse(call.function.arguments));
      return { role: "tool", tool_call_id: call.id, content: "done" };
    });
    const later = { model, tools, messages: [...messages, message, ...results], max_tokens: 8 };
    assert.equal((await client.chat.completions.create(later)).choices.length, 1);
  },
  async "chat, a call streamed"() {
    const tools = [{ type: "function", function: { name: "keep", parameters: SCHEMA } }];
    const tool_choice = { type: "function", function: { name: "keep" } };
    const stream = client.chat.completions.stream({ model, messages, tools, tool_choice });
    const { choices: [{ message }] } = await stream.finalChatCompletion();
    checkAnimal(JSON.parse(message.tool_calls[0].function.arguments));
  },
  async "chat, the helper that runs tools"() {
    const called = [];
    const keep = {
      name: "keep", parameters: SCHEMA, parse: JSON.parse,
      function: (animal) => { called.push(animal); return "done"; },
    };
    const runner = client.chat.completions.runTools({
      model, messages, tools: [{ type: "function", function: keep }], max_tokens: 60,
      tool_choice: { type: "function", function: { name: "keep" } },
    });
    await runner.finalMessage().catch(() => {});
    assert.ok(called.length > 0);
    called.forEach(checkAnimal);
  },
  async responses() {
    const answer = await client.responses.create({ model, input: "hello", max_output_tokens: 8 });
    assert.equal(typeof answer.output_text, "string");
    assert.ok(answer.usage.output_tokens >= 0);
  },
  async "responses, a second turn"() {
    const first = await client.responses.create({ model, input: messages, max_output_tokens: 8 });
    const input = [...messages, ...first.output, { role: "user", content: "And print?" }];
    const second = await client.responses.create({ model, input, max_output_tokens: 8 });
    assert.equal(typeof second.output_text, "string");
  },
  async "responses, streamed"() {
    const stream = client.responses.stream({ model, input: messages, max_output_tokens: 8 });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    const final = await stream.finalResponse();
    assert.equal(text, final.output_text);
  },
  async "responses, parsed by a schema"() {
    const format = { type: "json_schema", name: "animal", schema: SCHEMA, strict: true };
    const answer = await client.responses.parse({ model, input: "hello", text: { format } });
    checkAnimal(answer.output_parsed ?? JSON.parse(answer.output_text));
  },
  async errors() {
    const wrong = [
      [{ ...asked, model: "other" }, OpenAI.NotFoundError, "model_not_found"],
      [{ ...asked, temperature: 3 }, OpenAI.BadRequestError, null],
    ];
    for (const [body, kind, code] of wrong)
      await assert.rejects(client.chat.completions.create(body), (error) => {
        assert.ok(error instanceof kind, String(error));
        assert.equal(error.code, code);
        return true;
      });
  },
});
