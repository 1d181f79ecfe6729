"""As much of curl as the documentation uses, for machines that have none: -s -i -H -d -X, and a URL."""

import argparse
import sys

import httpx

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-s", "--silent", action="store_true")
parser.add_argument("-i", "--include", action="store_true")
parser.add_argument("-H", "--header", action="append", default=[])
parser.add_argument("-d", "--data")
parser.add_argument("-X", "--request")
asked = parser.parse_args()

headers = dict(header.split(": ", 1) for header in asked.header)
if asked.data is not None:
    headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
with httpx.Client(trust_env=False, timeout=30.0) as client:
    method = asked.request or ("GET" if asked.data is None else "POST")
    answer = client.request(method, asked.url, headers=headers, content=asked.data)
if asked.include:
    sys.stdout.write(f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\n")
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in answer.headers.items())
    sys.stdout.write("\n")
sys.stdout.write(answer.text)
