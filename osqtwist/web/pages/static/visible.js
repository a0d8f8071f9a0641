// Text from nodes, such that all that is in it can be seen, and nothing reorders what stands beside it.
const hidden = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g;
const known = { "\n": "\\n", "\t": "\\t", "\r": "\\r" };

function escaped(letter) {
  const code = letter.charCodeAt(0);
  return known[letter] ?? (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`);
}

/** A value on one line, cut where it is too long. */
export function cell(value, most = 300) {
  const text = value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
  const part = text.length > most ? `${text.slice(0, most - 1)}…` : text;
  return part.replace(hidden, escaped);
}

/** The same with its own line ends and tabs. */
export function lines(value, most = 100_000) {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "";
  const part = text.length > most ? `${text.slice(0, most)}… (${text.length} letters in all)` : text;
  return part.replace(hidden, (letter) => (letter === "\n" || letter === "\t" ? letter : escaped(letter)));
}
