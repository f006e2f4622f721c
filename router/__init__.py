"""Which expert should answer: prompts to probabilities to mixtures, with a way to say "none"."""

from router.dataless import dataless_router
from router.files import load_router, save_router
from router.grow import extend, without
from router.policy import Policy
from router.prompts import Prompt, read_prompts
from router.query import Query, user_turns
from router.router import Route, Router
from router.settings import RouterRecipe, RouterSettings
from router.train import train_router

__all__ = [
    "Policy",
    "Prompt",
    "Query",
    "Route",
    "Router",
    "RouterRecipe",
    "RouterSettings",
    "dataless_router",
    "extend",
    "load_router",
    "read_prompts",
    "save_router",
    "train_router",
    "user_turns",
    "without",
]
