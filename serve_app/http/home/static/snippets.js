// A request as curl, Python and Rust. Files are named, not included.

const KEY = "MODEL_RUNTIME_KEY";
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const json = (value) => JSON.stringify(value);

export const LANGUAGES = [["curl", "curl"], ["python", "Python"], ["rust", "Rust"]];

/** `family`: {request, form}. `fields`: those of the request; a File stands for its content. */
export function snippet(language, { family, fields, url, withKey }) {
  return { curl, python, rust }[language](family, fields, url, withKey);
}

function curl(family, fields, url, withKey) {
  const key = withKey ? ` \\\n  -H "authorization: Bearer $${KEY}"` : "";
  const files = Object.entries(fields).filter(([, value]) => value instanceof File);
  if (files.length === 1 && family.form?.field === files[0][0]) {
    const rest = Object.entries(fields).filter(([name, value]) => name !== "stream" && !(value instanceof File));
    const parts = rest.map(([name, value]) => ` \\\n  -F ${quoted(`${name}=${value}`)}`).join("");
    return `curl ${url}${key}${parts} \\\n  -F ${quoted(`${family.form.file}=@${files[0][1].name}`)}`;
  }
  const stream = fields.stream ? "-N " : "";
  return `curl ${stream}${url}${key} \\\n  -H 'content-type: application/json' \\\n  -d ${quoted(json({ [family.request]: fields }))}`;
}

function python(family, fields, url, withKey) {
  const { stream, ...rest } = fields;
  const files = Object.values(rest).some((value) => value instanceof File);
  const literal = (value) =>
    value instanceof File ? `Path(${json(value.name)}).read_bytes()`
    : typeof value === "boolean" ? (value ? "True" : "False")
    : json(value);
  const given = Object.entries(rest).map(([name, value]) => `    ${name}=${literal(value)},\n`).join("");
  const imports = [withKey ? "import os" : null, files ? "from pathlib import Path" : null].filter(Boolean).join("\n");
  const target = withKey ? `"${base(url)}", api_key=os.environ["${KEY}"]` : `"${base(url)}"`;
  return `${imports}${imports ? "\n\n" : ""}from deployments.contract.types import ${family.request}
from serve_app.client import ModelRuntimeClient

request = ${family.request}(
${given})
with ModelRuntimeClient(${target}) as client:
    print(client.infer(request))
`;
}

function rust(family, fields, url, withKey) {
  const { stream, ...rest } = fields;
  const files = Object.entries(rest).filter(([, value]) => value instanceof File);
  const read = files.map(([name, file]) => `    let ${name} = BASE64_STANDARD.encode(std::fs::read(${json(file.name)})?);\n`).join("");
  const literal = (name, value) => (value instanceof File ? name : json(value));
  const given = Object.entries(rest).map(([name, value]) => `            ${json(name)}: ${literal(name, value)},\n`).join("");
  const key = withKey ? `\n        .bearer_auth(std::env::var("${KEY}")?)` : "";
  const crates = files.length ? "base64 serde_json" : "serde_json";
  return `// cargo add ${crates} && cargo add reqwest --features blocking,json
${files.length ? "use base64::prelude::*;\n" : ""}use serde_json::{json, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
${read}    let answer: Value = reqwest::blocking::Client::new()
        .post("${url}")${key}
        .json(&json!({ "${family.request}": {
${given}        }}))
        .send()?
        .json()?;
    println!("{answer:#}");
    Ok(())
}
`;
}

const base = (url) => url.replace(/\/infer$/, "");
