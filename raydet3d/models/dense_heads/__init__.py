"""Dense heads: from feature maps to losses and boxes."""
