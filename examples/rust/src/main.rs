//! Classifies a picture in bincode, continues a text in JSON and streams another one: `cargo run -- URL PICTURE`.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};

/// Variants in the contract's order: bincode writes their numbers.
#[derive(Serialize)]
enum InferRequest {
    ImageClassification { model_id: String, image_data: Vec<u8> },
    TextGeneration { model_id: String, prompt: String, max_tokens: u32 },
}

#[derive(Debug, Deserialize)]
enum InferResponse {
    ImageClassificationResult { class_labels: Vec<String>, probabilities: Vec<f32> },
    TextGenerationResult { generated_text: String },
    Error { message: String },
}

type Failure = Box<dyn std::error::Error>;

/// The body of an answer. A failure has its own status and the same form: it is an answer, too.
fn post(url: &str, content_type: &str, body: &[u8]) -> Result<ureq::Response, Failure> {
    match ureq::post(&format!("{url}/infer")).set("content-type", content_type).send_bytes(body) {
        Ok(response) | Err(ureq::Error::Status(_, response)) => Ok(response),
        Err(failure) => Err(failure.into()),
    }
}

fn show(answer: InferResponse) {
    match answer {
        InferResponse::ImageClassificationResult { class_labels, probabilities } => {
            for (label, probability) in class_labels.iter().zip(probabilities).take(3) {
                println!("{label} {probability:.3}");
            }
        }
        InferResponse::TextGenerationResult { generated_text } => println!("{generated_text}"),
        InferResponse::Error { message } => println!("error: {message}"),
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, picture] = &arguments[..] else { return Err("usage: URL PICTURE".into()) };

    let image_data = std::fs::read(picture)?;
    let image = InferRequest::ImageClassification { model_id: "image_classifier_v1".into(), image_data };
    let answer = post(url, "application/x-bincode", &bincode::serialize(&image)?)?;
    show(bincode::deserialize_from(answer.into_reader())?);

    for model_id in ["gpt-nano", "no-such-model"] {
        let text = InferRequest::TextGeneration { model_id: model_id.into(), prompt: "ROMEO:".into(), max_tokens: 20 };
        let answer = post(url, "application/json", &serde_json::to_vec(&text)?)?;
        show(serde_json::from_reader(answer.into_reader())?);
    }

    // Server-sent events: `token` for each piece of text, `result` with the whole answer at the end.
    let text = serde_json::json!({"TextGeneration":
        {"model_id": "gpt-nano", "prompt": "ROMEO:", "max_tokens": 40, "stream": true}});
    let answer = post(url, "application/json", text.to_string().as_bytes())?;
    let mut event = String::new();
    for line in BufReader::new(answer.into_reader()).lines() {
        let line = line?;
        if let Some(name) = line.strip_prefix("event: ") {
            event = name.to_string();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let value: serde_json::Value = serde_json::from_str(data)?;
            if event == "token" {
                print!("{}", value["text"].as_str().unwrap_or_default());
                std::io::stdout().flush()?;
            } else {
                println!("\n({})", value["TextGenerationResult"]["finish_reason"].as_str().unwrap_or("failed"));
            }
        }
    }
    Ok(())
}
