"""Models for others: PEFT, Hugging Face, model cards."""
