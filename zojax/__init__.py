"""zojax: fine-tune large language models with inference alone."""

__version__ = "0.1.0"
