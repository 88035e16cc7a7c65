"""Tasks of lmms-eval, asked by our runner with lmms-eval's own prompts, scores and aggregation."""
