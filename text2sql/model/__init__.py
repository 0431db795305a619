"""The model: prompt, packing, base model, LoRA and quantization, training, generation."""
