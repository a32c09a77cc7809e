"""Task modules: anchor generators, assigners and box coders."""
