"""Evidence for a ranking: networks fine-tuned alike, and what they come to."""
