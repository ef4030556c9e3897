# taskheads serve in a container:
#
#   docker build -t taskheads .
#   docker run -p 8000:8000 -e TASKHEADS_TOKEN=… -v "$PWD/runs/first:/models/first:ro" taskheads
#
# TORCH_INDEX is where pip finds the build of torch that you want (PyTorch's page on installing lists them); by default
# it is pip's own.

ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS built
ARG TORCH_INDEX
WORKDIR /source
COPY constraints.txt ./
RUN python -m venv /opt/taskheads \
 && /opt/taskheads/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/taskheads/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:${PYTHON}-slim
RUN useradd --create-home taskheads
COPY --from=built /opt/taskheads /opt/taskheads
USER taskheads
ENV PATH=/opt/taskheads/bin:$PATH HF_HUB_OFFLINE=1
EXPOSE 8000
# The end in order takes as long as what was taken; `docker stop -t 40` waits for it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["taskheads", "serve", "--host", "0.0.0.0"]
CMD ["/models/first"]
