// From a conversation to a request, and from the parts of its answer to pieces of text.

import { streamObjects } from "./client.js";
import { chatMessages, textSoFar } from "./conversation.js";

const NUM_ALTERNATIVES = 5;

/**
 * Yield pieces {text, tokens, finish, timings} of the model's answer to a conversation.
 *
 * A token has its place (in characters of the whole answer), log-probability and alternatives.
 */
export function answer(conversation, model, signal) {
  const isChat = conversation.settings.mode === "chat";
  return isChat ? chat(conversation, model, signal) : continuation(conversation, model, signal);
}

async function* chat(conversation, model, signal) {
  const messages = chatMessages(conversation);
  const body = { messages, logprobs: true, top_logprobs: NUM_ALTERNATIVES };
  const characters = new TextDecoder("utf-8", { ignoreBOM: true });
  let place = 0;
  const request = { ...body, ...shared(conversation, model) };
  for await (const object of streamObjects("v1/chat/completions", request, signal)) {
    const choice = object.choices[0];
    const tokens = (choice?.logprobs?.content ?? []).map((token) => {
      const begin = place;
      place += [...characters.decode(new Uint8Array(token.bytes), { stream: true })].length;
      const alternatives = token.top_logprobs.map((each) => [each.token, each.logprob]);
      return { place: begin, text: token.token, logprob: token.logprob, alternatives };
    });
    yield piece(object, choice?.delta?.content, tokens);
  }
}

async function* continuation(conversation, model, signal) {
  const body = { prompt: textSoFar(conversation), logprobs: NUM_ALTERNATIVES };
  const request = { ...body, ...shared(conversation, model) };
  for await (const object of streamObjects("v1/completions", request, signal)) {
    const choice = object.choices[0];
    const scores = choice?.logprobs;
    const tokens = (scores?.tokens ?? []).map((text, number) => ({
      place: scores.text_offset[number],
      text,
      logprob: scores.token_logprobs[number],
      alternatives: Object.entries(scores.top_logprobs[number] ?? {}),
    }));
    yield piece(object, choice?.text, tokens);
  }
}

/** Return how an answer ended, for people. */
export function describeEnd(message, timings) {
  const why = message.finish === "length" ? "Ended at the limit of new tokens" : "Done";
  const speed = timings?.predicted_per_second.toFixed(1);
  return timings ? `${why}: ${timings.predicted_n} tokens, ${speed} per second.` : `${why}.`;
}

/** Return the fields that both routes take; those that are not set are left to the server. */
function shared(conversation, model) {
  const { mode, system, stop, ...numbers } = conversation.settings;
  const given = Object.entries(numbers).filter(([, value]) => value !== null);
  return {
    model: model.id,
    stream: true,
    stream_options: { include_usage: true },
    ...Object.fromEntries(given),
    ...(stop.length ? { stop } : {}),
  };
}

function piece(object, text, tokens) {
  const finish = object.choices[0]?.finish_reason ?? null;
  return { text: text ?? "", tokens, finish, timings: object.timings ?? null };
}
