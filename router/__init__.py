"""Which expert should answer: prompts to probabilities to mixtures, with a way to say "none"."""

from router.policy import Policy
from router.router import Route, Router
from router.settings import RouterRecipe, RouterSettings
from router.text import routing_text, routing_tokens
from router.train import Prompt, read_prompts, train_router

__all__ = [
    "Policy",
    "Prompt",
    "Route",
    "Router",
    "RouterRecipe",
    "RouterSettings",
    "read_prompts",
    "routing_text",
    "routing_tokens",
    "train_router",
]
