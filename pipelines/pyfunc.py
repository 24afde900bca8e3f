"""A trained model in MLflow, as `mlflow.pyfunc.load_model` finds it: code that MLflow runs, not a pickle.

It takes a table with a column `uri` (and, if you have clean references, `reference_uri`), or a list of paths, and gives
the rows of `sqllm.Predictor.score`.
"""

from __future__ import annotations

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from sqllm import Predictor


class Scorer(PythonModel):
    def load_context(self, context) -> None:
        self.predictor = Predictor.load(context.artifacts["model"])

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        if not isinstance(model_input, pd.DataFrame):
            model_input = pd.DataFrame({"uri": model_input})
        references = None
        if "reference_uri" in model_input:
            references = [r if isinstance(r, str) else None for r in model_input["reference_uri"]]
        return pd.DataFrame(self.predictor.score(list(model_input["uri"]), references))


set_model(Scorer())
