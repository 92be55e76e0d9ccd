// Classifies a picture, streams a text, and sends a batch: node example.mjs URL PICTURE
import { readFile } from "node:fs/promises";

const [url, picture] = process.argv.slice(2);

async function ask(path, body) {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) {
    const { Error: error } = await response.json();
    throw new Error(`${error.code}: ${error.message}`); // error.retryable says whether to try again
  }
  return response;
}

// An answer is an object with the variant's name as its only key.
const image_data = (await readFile(picture)).toString("base64");
const image = { model_id: "image_classifier_v1", image_data, top_k: 3 };
const { ImageClassificationResult: result } = await (await ask("/infer", { ImageClassification: image })).json();
result.class_labels.forEach((label, n) => console.log(label, result.probabilities[n].toFixed(3)));

// A stream is server-sent events: `token` for each piece of text, `result` with the whole answer at the end.
const text = { model_id: "gpt-nano", prompt: "ROMEO:", max_tokens: 40, stream: true };
const events = (await ask("/infer", { TextGeneration: text })).body.pipeThrough(new TextDecoderStream());
let rest = "";
for await (const part of events) {
  const blocks = (rest + part).split("\n\n");
  rest = blocks.pop();
  for (const block of blocks) {
    const [, event, data] = block.match(/^event: (\w+)\ndata: (.*)$/) ?? [];
    if (event === "token") process.stdout.write(JSON.parse(data).text);
    if (event === "result") {
      const answer = JSON.parse(data);
      if (answer.Error) throw new Error(`${answer.Error.code}: ${answer.Error.message}`);
      console.log(`\n(${answer.TextGenerationResult.finish_reason})`);
    }
  }
}

// A batch is answered in order; a request that fails has its own Error in its place.
const short = { ...text, stream: false, max_tokens: 5 };
const batch = [{ TextGeneration: short }, { TextGeneration: { ...short, model_id: "no-such-model" } }];
for (const answer of await (await ask("/infer/batch", batch)).json()) {
  console.log(answer.Error?.code ?? answer.TextGenerationResult.generated_text);
}
