// openai-node and the AI SDK against the scripted server: `node --test`, with the server's /v1 in BASE_URL.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.BASE_URL;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const Place = z.object({ city: z.string(), people: z.number().int() });
const messages = [{ role: "user", content: "hi" }];
const found = "They gave 12 °C in Paris and noon in Paris.";

test("openai-node: chats, streams, tools", async () => {
  const answer = await client.chat.completions.create({ model: "scripted", messages });
  assert.match(answer.choices[0].message.content, /^Hello/);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: "scripted", messages, stream: true }))
    text += chunk.choices[0].delta.content ?? "";
  assert.match(text, /^Hello/);
  const run = client.chat.completions.runTools({
    model: "scripted",
    messages,
    tools: [
      { type: "function", function: { name: "weather", parse: JSON.parse, function: ({ city }) => `12 °C in ${city}`,
        parameters: { type: "object", properties: { city: { type: "string" } } } } },
      { type: "function", function: { name: "time", parse: JSON.parse, function: ({ zone }) => `noon in ${zone}`,
        parameters: { type: "object", properties: { zone: { type: "string" } } } } },
    ],
  });
  assert.equal(await run.finalContent(), found);
});

test("openai-node: embeddings, in base64 as it asks unless told otherwise", async () => {
  for (const encoding_format of [undefined, "float"]) {
    const answer = await client.embeddings.create({ model: "scripted", input: ["abc", "d"], encoding_format });
    assert.deepEqual(answer.data.map((one) => one.embedding.map((value) => Number(value.toFixed(6)))),
      [[3, 0.5, -0.25, 0.1], [1, 0.5, -0.25, 0.1]]);
  }
});

test("openai-node: responses", async () => {
  const response = await client.responses.parse({ model: "scripted", input: "hi", text: { format: zodTextFormat(Place, "place") } });
  assert.deepEqual(response.output_parsed, { city: "Paris", people: 7 });
  const stream = client.responses.stream({ model: "scripted", input: "hi" });
  assert.match((await stream.finalResponse()).output_text, /^Hello/);
});

const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  compatible: createOpenAICompatible({ name: "ours", baseURL, supportsStructuredOutputs: true })("scripted"),
  responses: openai("scripted"),
  chat: openai.chat("scripted"),
};
const tools = {
  weather: tool({ description: "The weather", inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `12 °C in ${city}` }),
  time: tool({ description: "The time", inputSchema: z.object({ zone: z.string() }), execute: async ({ zone }) => `noon in ${zone}` }),
};

for (const [kind, model] of Object.entries(models)) {
  test(`AI SDK, ${kind}: tools, streams, objects`, async () => {
    // Responses are not kept: without `store: false` the SDK would send references to their items.
    const providerOptions = { openai: { store: false } };
    const options = { model, tools, prompt: "hi", stopWhen: stepCountIs(3), providerOptions };
    assert.equal((await generateText(options)).text, found);
    const stream = streamText(options);
    for await (const part of stream.fullStream) assert.notEqual(part.type, "error", JSON.stringify(part.error));
    assert.equal(await stream.text, found);
    const { output } = await generateText({ model, prompt: "hi", output: Output.object({ schema: Place }) });
    assert.deepEqual(output, { city: "Paris", people: 7 });
  });
}
