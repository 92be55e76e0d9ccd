"""OpenAI's API for text models: translates to TextGeneration requests and back, and decides nothing else."""
