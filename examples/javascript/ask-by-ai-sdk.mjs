// The AI SDK: a text in parts, and a tool. `npm install ai @ai-sdk/openai-compatible zod`, then
//   node ask-by-ai-sdk.mjs http://127.0.0.1:8000/v1 MODEL
// A tool is called by a chat model whose template knows tools, such as Qwen's.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "model-runtime", baseURL })(name); // with apiKey, where there are keys

for await (const text of streamText({ model, prompt: "What is a lighthouse?" }).textStream) process.stdout.write(text);
console.log();

const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `12 °C in ${city}`,
});
const { text } = await generateText({
  model,
  prompt: "Do I need a coat in Paris?",
  tools: { weather },
  stopWhen: stepCountIs(3),
});
console.log(text);
