"""Real architectures with attention heads whose job is known: the ground truth of whatever finds heads."""

from taskheads.attention.planted.models import Planted, plant
from taskheads.attention.planted.prompts import Prompts, prompts

__all__ = ["Planted", "Prompts", "plant", "prompts"]
