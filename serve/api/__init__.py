"""The HTTP endpoint: OpenAI's wire format in front of an engine."""
