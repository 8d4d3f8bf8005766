"""Evidence: benchmarks through lm-evaluation-harness, comparators, the description gate, costs and reports."""
