"""Which of two captions is better: pairs drawn from layers, and what people and models say of them."""
