"""LlamaIndex: the texts that are nearest to a question, and an answer by them.

pip install llama-index-core llama-index-llms-openai-like llama-index-embeddings-openai-like
python examples/python/ask_by_llama_index.py http://127.0.0.1:8000/v1 CHAT_MODEL EMBEDDING_MODEL
"""

import sys

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

_, url, chat, embedding = sys.argv
key = "none"  # or one of `model-runtime keys new`
embedder = OpenAILikeEmbedding(model_name=embedding, api_base=url, api_key=key)
texts = ["The lighthouse was built in 1885.", "The harbour freezes in January.", "Its keeper kept bees."]
index = VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=embedder)
answers = index.as_query_engine(
    llm=OpenAILike(model=chat, api_base=url, api_key=key, is_chat_model=True), similarity_top_k=2
)
answer = answers.query("How old is the lighthouse?")
print(answer)
for source in answer.source_nodes:
    print(f"{source.score:.2f} {source.text}")
