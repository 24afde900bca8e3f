"""Training in one process: pooled features once (`features`), then scores (`scores`), then words (`words`).

python -m sqllm.training features|scores|words|finish ... (see `__main__`)
"""
