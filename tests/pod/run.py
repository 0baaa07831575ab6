"""`atlas-jax run` with a recipe in JSON, as each process of a launcher runs it.

python run.py CHANGES OUT SPLIT
"""

import json
import sys
from pathlib import Path

import typer
from nltk.tokenize.punkt import PunktSentenceTokenizer

from atlas_jax.cli import app
from atlas_jax.cli.console import reports_errors
from atlas_jax.pipeline.recipe import Recipe

recipe = Recipe(name="smoke").with_values(json.loads(sys.argv[1]))
try:
    reports_errors(app._experiment)(
        recipe, Path(sys.argv[2]), False, PunktSentenceTokenizer(), None, int(sys.argv[3])
    )
except typer.Exit as end:
    sys.exit(end.exit_code)
