"""The web page: the files that are in a folder when the server starts, and nothing else."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

INDEX = "index.html"

# Whatever a model writes, no script runs but those of the page's own files.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask whether it has changed, which costs a few bytes
}


def page_folder() -> Path:
    return Path(str(resources.files("samosa_jax"))) / "web"


def page_routes(folder: Path) -> list[Route]:
    """A route for every file of the folder, and / for its index.html. A missing folder has none."""
    files = StaticFiles(directory=folder, check_dir=False)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    routes = [_route(f"/{name}", name, files) for name in names]
    return [*routes, _route("/", INDEX, files)] if INDEX in names else routes


def _route(path: str, name: str, files: StaticFiles) -> Route:
    async def serve(request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(HEADERS)
        return response

    return Route(path, serve, methods=["GET"], include_in_schema=False)
