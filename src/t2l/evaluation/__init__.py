"""Evidence: benchmarks through lm-evaluation-harness, baselines, the description gate, costs and reports."""
