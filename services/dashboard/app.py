"""A run, live: curves, what each feedback source did, every rollout with what the teacher saw; and a page for it.

It reads the files of the runs below `run.dir` and nothing else, writes nothing, and needs no other service: it shows a
run that another machine trains as long as it sees the files. The page is in `page/`, served before any key is asked
for; everything that it shows comes through the routes below, which ask for the stack's key.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware

from services.dashboard import rollout_routes, run_routes
from services.dashboard.run_metrics import RunMetrics
from services.dashboard.runs import RunsFolder
from services.web.page import StaticPage
from shared.service import create_service
from shared.settings import Settings

PAGE = Path(__file__).parent / "page"


def create_app(settings: Settings) -> FastAPI:
    """The dashboard of the runs below `settings.run.dir`."""
    folder = RunsFolder(Path(settings.run.dir))
    app = create_service(
        "dashboard", settings, page=Middleware(StaticPage, at="/", folder=PAGE), description=__doc__ or ""
    )
    app.state.folder = folder
    app.state.registry.register(RunMetrics(folder))
    for router in (run_routes.router(folder), rollout_routes.router()):
        app.include_router(router, prefix="/v1")
    return app
