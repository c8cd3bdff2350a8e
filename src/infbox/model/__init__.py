"""Models: where they come from, how they are fetched, and what makes a folder a model."""
