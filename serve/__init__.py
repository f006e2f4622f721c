"""Online stage: the engine that serves a bundle, its HTTP API and its command line."""
