"""OpenAI's HTTP API over the assistant, and the web page."""
