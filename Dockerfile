# docker build -t salt . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" salt salt run
# With an NVIDIA GPU: docker run --gpus all ... Results go to /work, the folder that is mounted there.
FROM python:3.11-slim

# The packages first: they are gigabytes, and change less often than the code.
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir pipeline && pip install --no-cache-dir --constraint constraints.txt .
COPY pipeline pipeline
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Any user may run it; what libraries keep (ImageNet weights) goes to HOME.
RUN useradd --uid 1000 salt && mkdir /work && chown salt /work
ENV HOME=/tmp
USER 1000
WORKDIR /work
CMD ["salt", "--help"]
