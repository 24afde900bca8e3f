"""The endpoint: the same scores as everywhere, behind HTTP, with Ray Serve.

    upload -> Gate (key, place, bytes, time) -> Ingress: decode and cut (CPU) -> Model: batches of windows -> rows

`settings` what can be set · `gate` who gets in · `problems` how errors look · `judging` from a file to its rows ·
`model` the batches · `app` the routes · `page`, `static` the page · `deployments` all of that on Ray Serve ·
`command`, `launch` `sqllm serve`.
"""


def build(args: dict):
    """The application for `serve deploy`; `args` are `Settings`."""
    from pipelines.serve.deployments import application
    from pipelines.serve.settings import Settings

    return application(Settings.of(args))
