"""Dense heads: from maps to losses and boxes."""
