"""The options of curl that the documentation uses (-s -i -H -d -X), for machines without curl."""

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
options = parser.parse_args()

headers = dict(header.split(": ", 1) for header in options.header)
if options.data is not None:
    headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
with httpx.Client(trust_env=False, timeout=30.0) as client:
    method = options.request or ("GET" if options.data is None else "POST")
    answer = client.request(method, options.url, headers=headers, content=options.data)
if options.include:
    sys.stdout.write(f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\n")
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in answer.headers.items())
    sys.stdout.write("\n")
sys.stdout.write(answer.text)
