# syntax=docker/dockerfile:1
# One image for every process: `relay`, `migrate`, `--queues …` are arguments (see docker-compose.yml).

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY requirements/run.lock /build/run.lock
# Hashes are checked and nothing is compiled or run from a source package.
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /build/run.lock \
    && /opt/venv/bin/pip check
COPY daemon /app/daemon
# The file system is read-only at run time: compile now, or every start would pay for it.
RUN /opt/venv/bin/python -m compileall -q /app/daemon

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="qstreamd" \
      org.opencontainers.image.description="Runs long LLM tasks off serverless" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    MALLOC_ARENA_MAX=2
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "daemon"]
CMD ["--help"]
