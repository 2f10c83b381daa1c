# The studio, and edits over HTTP, on a CPU: docs/service.md says how to run it.
FROM python:3.12-slim

RUN useradd --create-home sama && mkdir /jobs && chown sama /jobs
WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[studio]'

USER sama
VOLUME /jobs
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import os; from sama_video.client import Client; Client('http://127.0.0.1:8000', os.environ['SAMA_TOKEN']).service()"]
# An address that others reach needs a token: docker run -e SAMA_TOKEN=...
CMD ["sama", "serve", "--host", "0.0.0.0", "--port", "8000", "--folder", "/jobs"]
