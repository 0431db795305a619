"""Entry of the HuggingFace Space: the demo on the model that the Space's README names."""

from pathlib import Path

from huggingface_hub import RepoCard

from app.demo import run_demo

if __name__ == "__main__":
    run_demo(model=RepoCard.load(Path(__file__).with_name("README.md")).data.to_dict()["models"][0], public=True)
