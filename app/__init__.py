"""The demo: questions to SQL in the browser. `make demo` starts it; app/space is its HuggingFace Space."""
