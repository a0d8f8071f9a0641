// Words on offer while one types: a list below the cursor, for a field of one line or of many.

const WAIT = 120;
let numbers = 0;

/**
 * Offers words in a field.
 *
 * source(text, caret) answers, perhaps later, with { begun, words }: how many letters before the caret are there already,
 * and what they can become: [{ text, says }].
 */
export function completing(field, source) {
  const list = document.createElement("ul");
  list.id = `words-${++numbers}`;
  list.className = "words";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Words on offer");
  list.hidden = true;
  field.parentElement.append(list);
  field.setAttribute("aria-autocomplete", "list");
  field.setAttribute("aria-controls", list.id);
  let offered = { begun: 0, words: [] };
  let chosen = -1;
  let asked = 0;
  let timer = 0;

  function close() {
    asked++;
    clearTimeout(timer);
    list.hidden = true;
    list.replaceChildren();
    chosen = -1;
    field.removeAttribute("aria-activedescendant");
  }

  function choose(number) {
    const options = list.children;
    if (chosen >= 0) options[chosen].setAttribute("aria-selected", "false");
    chosen = (number + options.length) % options.length;
    options[chosen].setAttribute("aria-selected", "true");
    options[chosen].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", options[chosen].id);
  }

  function take(number) {
    const word = offered.words[number].text;
    const caret = field.selectionStart;
    field.setSelectionRange(caret - offered.begun, caret);
    // The one way that can be undone with Ctrl-Z.
    if (!document.execCommand("insertText", false, word)) field.setRangeText(word, caret - offered.begun, caret, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    close();
  }

  async function offer(isWanted) {
    const number = ++asked;
    const caret = field.selectionStart;
    if (caret !== field.selectionEnd) return close();
    const found = await source(field.value, caret).catch(() => ({ begun: 0, words: [] }));
    if (number !== asked || document.activeElement !== field) return;
    const typed = field.value.slice(caret - found.begun, caret).toLowerCase();
    const isDone = found.words.length === 0 || (!isWanted && (found.begun === 0 || found.words[0].text.toLowerCase() === typed));
    if (isDone) return close();
    offered = { begun: found.begun, words: found.words.slice(0, 50) };
    chosen = -1;
    field.removeAttribute("aria-activedescendant");
    list.replaceChildren(...offered.words.map((word, place) => {
      const option = document.createElement("li");
      option.id = `${list.id}-${place}`;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      const says = document.createElement("span");
      says.className = "faint";
      says.textContent = word.says ?? "";
      option.append(word.label ?? word.text, says);
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        take(place);
      });
      return option;
    }));
    list.hidden = false;
    place();
  }

  function place() {
    const spot = caretIn(field, offered.begun);
    const room = field.parentElement.clientWidth - list.offsetWidth;
    list.style.left = `${Math.max(0, Math.min(spot.left, room))}px`;
    list.style.top = `${field.offsetTop + Math.min(spot.top, field.offsetHeight)}px`;
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    asked++;
    timer = setTimeout(() => offer(false), WAIT);
  });
  field.addEventListener("blur", close);
  field.addEventListener("click", close);
  field.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.key === " ") {
      event.preventDefault();
      offer(true);
    } else if (list.hidden || event.isComposing) {
      return;
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose(event.key === "ArrowDown" ? chosen + 1 : Math.max(chosen, 0) - 1);
    } else if ((event.key === "Enter" && chosen >= 0) || (event.key === "Tab" && !event.shiftKey)) {
      event.preventDefault();
      take(Math.max(chosen, 0));
    } else if (event.key === "Escape") {
      event.preventDefault();
      close();
    } else if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
      close();
    }
  });
}

const COPIED = ["font", "letterSpacing", "padding", "borderWidth", "lineHeight", "boxSizing", "tabSize"];

/** Where in a field the word begins that is being typed: the place below it. */
function caretIn(field, begun) {
  const style = getComputedStyle(field);
  const mirror = document.createElement("div");
  for (const name of COPIED) mirror.style[name] = style[name];
  const isLines = field.tagName === "TEXTAREA";
  Object.assign(mirror.style, {
    position: "absolute", visibility: "hidden", borderStyle: "solid", overflowWrap: "break-word",
    whiteSpace: isLines ? "pre-wrap" : "pre", width: `${field.clientWidth + parseFloat(style.borderLeftWidth) * 2}px`,
  });
  mirror.textContent = field.value.slice(0, field.selectionStart - begun);
  const mark = document.createElement("span");
  mark.textContent = ".";
  mirror.append(mark);
  field.parentElement.append(mirror);
  const spot = { left: mark.offsetLeft - field.scrollLeft, top: mark.offsetTop + mark.offsetHeight - field.scrollTop + 2 };
  mirror.remove();
  return spot;
}
