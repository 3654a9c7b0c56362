// Boxes that a caption says, `a dog [12,34,56,78]`: read as vila2_ray/captions/boxes.py reads them, so that they can be
// drawn while the caption is still being written. Tests hold the two together.

const MAX_COORDINATE = 999;
const MAX_NOUN_WORDS = 4;
const BRACKET = /\[[^[\]]*\]?/g;
const NUMBER = "\\s*(-?[0-9]{1,9})\\s*";
const BOX = new RegExp(`^\\[${[NUMBER, NUMBER, NUMBER, NUMBER].join(",")}\\]$`);
const WORD = /[\p{L}\p{N}][\p{L}\p{N}_'’-]*/gu;
const SENTENCE_END = /[.;!?\n]/g;
const ARTICLE = new RegExp(
  "(?<![\\p{L}\\p{N}_])(?:an?|the|his|her|its|their|this|that|these|those|some|one|two|three|four|five)(?![\\p{L}\\p{N}_])",
  "giu",
);
const LINKS = new Set("at in is are with and or on by from seen located box place of".split(" "));

/** [xmin, ymin, xmax, ymax] in thousandths of the picture, or null where a bracket is no box of it. */
function read(bracket) {
  const match = BOX.exec(bracket);
  if (!match) return null;
  const [xmin, ymin, xmax, ymax] = match.slice(1).map(Number);
  const fits = [xmin, ymin, xmax, ymax].every((corner) => corner >= 0 && corner <= MAX_COORDINATE);
  return fits && xmin < xmax && ymin < ymax ? [xmin, ymin, xmax, ymax] : null;
}

/** Where the noun of a box stands in the text between it and the bracket before; empty when there is none. */
function noun(between) {
  const ends = [...between.matchAll(SENTENCE_END)];
  const skipped = ends.length ? ends.at(-1).index + 1 : 0;
  const part = between.slice(skipped);
  const articles = [...part.matchAll(ARTICLE)];
  const begin = articles.length ? articles.at(-1).index + articles.at(-1)[0].length : 0;
  let words = [...part.slice(begin).matchAll(WORD)];
  const isLink = (word) => LINKS.has(word[0].toLowerCase());
  while (words.length && isLink(words.at(-1))) words.pop();
  words = words.slice(words.findLastIndex(isLink) + 1).slice(-MAX_NOUN_WORDS);
  if (!words.length) return { start: between.length, end: between.length };
  const last = words.at(-1);
  return { start: skipped + begin + words[0].index, end: skipped + begin + last.index + last[0].length };
}

/**
 * Every valid box of a text: its corners, the name before it ("" without), and where the name and the bracket stand.
 * Boxes that follow each other with no more than a comma or `and` between them share their name.
 */
export function namedBoxes(text) {
  const found = [];
  let end = 0, name = { name: "", start: 0, end: 0 };
  for (const bracket of text.matchAll(BRACKET)) {
    const between = text.slice(end, bracket.index);
    const isOther = /[\p{L}\p{N}_]/u.test(between.replace(/(?<![\p{L}\p{N}_])and(?![\p{L}\p{N}_])/gu, ""));
    if (end === 0 || isOther || /[.;!?\n]/.test(between)) {
      const at = noun(between);
      const said = between.slice(at.start, at.end).toLowerCase().split(/\s+/).join(" ");
      name = { name: said, start: end + at.start, end: end + at.end };
    }
    const open = bracket.index;
    end = open + bracket[0].length;
    const box = read(bracket[0]);
    if (box) found.push({ ...name, box, open, close: end });
  }
  return found;
}
