// Words for an expression over nodes: keys, what nodes have for them, and what joins terms.
import { api } from "./api.js";

const KEYS = {
  tag: "a tag that it has", name: "its name", platform: "linux, darwin, windows, ubuntu...", version: "of its osquery",
  host: "its host identifier", cn: "the name in its certificate", issuer: "who signed that", secret: "the enroll secret it came by",
  proof: "certificate or secret", id: "the id it has here",
};
const WORDS = { and: "both", or: "one of both", not: "all but" };

/** The source of words for a field that holds an expression; see complete.js. */
export async function targetWords(text, caret) {
  const before = text.slice(0, caret);
  if ((before.match(/"/g) ?? []).length % 2) return { begun: 0, words: [] };
  const [begun] = /[^\s()]*$/.exec(before);
  const [, key, value] = /^([a-z]+):(.*)$/i.exec(begun) ?? [];
  if (key !== undefined) {
    if (!(key.toLowerCase() in KEYS)) return { begun: 0, words: [] };
    const query = new URLSearchParams({ key: key.toLowerCase(), begun: value });
    const { words } = await api(`targets/words?${query}`);
    return { begun: begun.length, words: words.map((word) => ({ text: word.term, says: ` ${word.nodes}` })) };
  }
  const isAfterTerm = /[\w"*?)\]]\s+$/.test(before.slice(0, caret - begun.length)) && !/\b(and|or|not)\s+$/i.test(before.slice(0, caret - begun.length));
  const keys = Object.entries(KEYS).map(([name, says]) => ({ text: `${name}:`, says: ` ${says}` }));
  const joins = Object.entries(WORDS).map(([name, says]) => ({ text: `${name} `, says: ` ${says}` }));
  const words = (isAfterTerm ? joins.slice(0, 2) : [...keys, joins[2]]).filter((word) => word.text.startsWith(begun.toLowerCase()));
  return { begun: begun.length, words };
}
