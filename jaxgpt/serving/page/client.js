// Requests to the server that the page came from.

import { askForKey, keyHeaders } from "./api_key.js";
import { readEvents } from "./events.js";

/** An answer of the server that is an error; its message is for people. */
export class ServerError extends Error {}

/** Return what /v1/models says of the model. */
export async function describeModel() {
  const response = await send("v1/models", {});
  return (await response.json()).data[0];
}

/** Yield the objects of a streamed answer to a POST of `body`. */
export async function* streamObjects(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") {
      return;
    }
    const object = JSON.parse(data);
    if (object.error) {
      throw new ServerError(object.error.message);
    }
    yield object;
  }
  throw new ServerError("the connection ended before the answer did");
}

async function send(path, options) {
  for (;;) {
    const headers = { ...options.headers, ...keyHeaders() };
    const response = await fetch(path, { ...options, headers, cache: "no-store" }).catch(explain);
    if (response.ok) {
      return response;
    }
    if (response.status !== 401 || !(await askForKey())) {
      throw new ServerError(await messageOf(response));
    }
  }
}

function explain(error) {
  throw error.name === "AbortError" ? error : new ServerError("the server cannot be reached");
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}
