"""OpenAI's interface to text models. Translates to TextGeneration requests and back; decides nothing itself."""
