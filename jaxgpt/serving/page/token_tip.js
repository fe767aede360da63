// What the model thought of a token: shown where the pointer is, or where the arrow keys went.

import { byId, element } from "./nodes.js";

const MARGIN = 8;

/** Show probabilities of the tokens below `root`. */
export function explainTokens(root) {
  const tip = byId("token-tip");
  let current = null;

  const hide = () => {
    current?.classList.remove("current");
    current = null;
    tip.hidden = true;
  };

  const show = (span) => {
    hide();
    current = span;
    span.classList.add("current");
    tip.replaceChildren(...describe(span.token));
    tip.hidden = false;
    const place = span.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(place.left, innerWidth - size.width - MARGIN);
    const below = place.bottom + MARGIN;
    const above = place.top - size.height - MARGIN;
    tip.style.left = `${Math.max(MARGIN, left)}px`;
    tip.style.top = `${below + size.height > innerHeight ? above : below}px`;
  };

  root.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".token");
    if (span) {
      show(span);
    } else {
      hide();
    }
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("focusout", hide);
  root.addEventListener("scroll", hide);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const body = event.target.closest(".shaded .body");
    const spans = [...(body?.querySelectorAll(".token") ?? [])];
    if (step && spans.length) {
      event.preventDefault();
      const number = spans.indexOf(current) + step;
      const next = spans[Math.max(0, Math.min(number, spans.length - 1))];
      next.scrollIntoView({ block: "nearest" });
      show(next);
    }
  });
}

/** Shade the tokens of a message by their probability, or no longer; return whether they are. */
export function toggleShading(view) {
  const shaded = view.root.classList.toggle("shaded");
  if (shaded) {
    view.body.setAttribute("tabindex", "0");
    view.body.setAttribute("role", "group");
    view.body.setAttribute("aria-label", "Tokens, by ← and →");
    view.body.focus();
  } else {
    for (const name of ["tabindex", "role", "aria-label"]) {
      view.body.removeAttribute(name);
    }
  }
  return shaded;
}

function describe(token) {
  const rows = token.alternatives.map(([text, logprob]) =>
    row(text, logprob, text === token.text),
  );
  if (!token.alternatives.some(([text]) => text === token.text)) {
    rows.push(row(token.text, token.logprob, true));
  }
  return rows;
}

function row(text, logprob, isDrawn) {
  return element(
    "div",
    { class: isDrawn ? "drawn" : "" },
    element("span", {}, visible(text)),
    element("span", {}, `${(100 * Math.exp(logprob)).toFixed(1)}%`),
  );
}

/** Return a text whose white space can be seen. */
function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}
